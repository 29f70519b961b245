"""Error rates of large galleries whose people are drawn, and the thresholds that a calibration gives them."""
