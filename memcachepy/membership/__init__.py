"""Where a cluster's list of nodes is kept: a file, DNS, ZooKeeper."""
