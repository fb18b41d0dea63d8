"""What the PyTorch reference takes: measured on H200s with torch 2.11 and cuDNN 9.19, bfloat16.

Medians, random data. Training steps kept bfloat16 moments and no float32 masters; every parameter
was trained, with attention outputs saved except "as published". Sizes that are not listed were not
measured.
"""

DEVICE = "H200"

STEP = {
    # Tokens and number of devices.
    (62_400, 1): "9.15 s, 51 GiB; 10.85 s, 36 GiB as published",
    (62_400, 4): "2.54 s, 23 GiB",
    (197_120, 4): "18.59 s, 43 GiB",
}
FORWARD = {
    # Tokens and number of devices; one branch.
    (62_400, 1): "2.54 s, 15 GiB",
}
VAE = {
    # Direction, frames, rows and columns; one view on one device.
    ("encode", 29, 480, 832): "0.342 s, 8.4 GiB",
    ("decode", 29, 480, 832): "0.598 s, 4.3 GiB",
    ("encode", 29, 704, 1280): "0.782 s, 18.5 GiB",
    ("decode", 29, 704, 1280): "1.331 s, 9.4 GiB",
}
ATTENTION = {
    # Queries, keys, heads and head width: TFLOP/s forward, backward.
    (62_464, 62_464, 16, 128): (
        "633 (cuDNN), 349 (FlashAttention-2)",
        "554 (cuDNN), 318 (FlashAttention-2)",
    ),
}
