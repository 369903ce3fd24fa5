"""Where a run happens: the provider protocol (``base``), how providers are found (``registry``), and one module a provider."""
