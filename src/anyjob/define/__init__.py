"""What defines a job: names, arguments and how they travel, when it is tried again, what it knows of its run."""
