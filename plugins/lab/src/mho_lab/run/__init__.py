"""The main job: train a task, deploy it on chips, compare."""
