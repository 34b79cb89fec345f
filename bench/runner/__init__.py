"""The batch runner's demonstrations and figures."""
