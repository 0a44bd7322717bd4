"""Which API operations the program calls, recorded while it works, and the least permissions made of them."""
