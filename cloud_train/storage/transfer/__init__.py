"""Many files to a store and many objects from one: ``files``, and whole folders: ``folders``. The rest is what these two are made of."""
