"""What the verbs print: data as text, and the streams that it goes to."""
