"""What a link is asked to be: values, their YAML, profiles and what may be wrong with them."""
