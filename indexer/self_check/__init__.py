"""A gallery looked over: people enrolled twice, mixed up, crowded together, unlike anybody."""
