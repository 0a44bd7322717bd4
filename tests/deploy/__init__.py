"""What is deployed, held against what the program is: the image, the manifests, the lane that proves them."""
