"""Networks: the diffusion transformer, the video autoencoders, the text encoders."""
