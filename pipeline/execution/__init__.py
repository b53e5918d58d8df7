"""Who works: processes of this machine, or of a cluster."""
