"""What speaks to the clouds. Each module translates its vendor's exceptions in one function."""
