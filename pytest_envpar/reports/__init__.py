"""Reports: pure functions from results to text. What they show comes from containers, so all of it is escaped."""
