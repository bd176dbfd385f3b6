"""Pictures of what the stages found: values in, files out."""
