"""What runs in the workers of a job."""
