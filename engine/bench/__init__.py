"""What `prefork bench` runs: real workers against a broker, one combination of settings after the other."""
