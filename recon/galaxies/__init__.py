"""Galaxy stamps from file to catalogue: deblurred part by part, measured, flagged, written.

`recon.reconstruct` leads here for stamps. `deblurring` does one batch, `plan` all of them, `result` is what comes out.
"""
