"""The demonstration: a shop, its application written slowly and well, and a server to run it on."""
