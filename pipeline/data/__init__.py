"""The data as crawl, overlap analysis and training know it: evaluation sets, descriptors, model sizes."""
