"""The Docker Engine: how it is reached, the calls that are made to it, and what is inside the containers that it starts."""
