"""One module per framework, each with one Worker."""
