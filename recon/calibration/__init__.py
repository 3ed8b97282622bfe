"""What has to be known before an image can be made: noise, coil compression, coil maps, missing k-space."""
