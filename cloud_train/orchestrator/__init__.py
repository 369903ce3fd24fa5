"""Plan, submit, observe, recover: the one room that knows the others. One module a deed; the CLI calls these and decides nothing itself."""
