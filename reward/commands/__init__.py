"""Commands below `cool-rlhf reward`."""
