"""Picture to templates: decode, detect, align, embed. Knows nothing of galleries, stores or the wire."""
