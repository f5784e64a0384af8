"""The peers: what of others our measures are set beside, how it is installed, and how its programs are asked."""
