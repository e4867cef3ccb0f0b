"""One file a verb: run(job, command). Here the rooms meet; below here none knows another."""
