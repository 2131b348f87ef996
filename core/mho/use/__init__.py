"""What a user does with a network: convert, program, age, calibrate, train, evaluate, save."""
