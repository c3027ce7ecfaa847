"""The cluster: a head of our own, its nodes, what it can hold, what its failures mean, jobs followed to their end."""
