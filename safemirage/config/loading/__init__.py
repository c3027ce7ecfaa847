"""From a YAML file and `a.b=c` overrides to a validated config, what is wrong with it in words, and its identity."""
