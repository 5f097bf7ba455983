"""Select: each URL once, no shared texts, and up to which priority each query tries its samples."""
