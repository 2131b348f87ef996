"""What a user does with a network: convert, program, age, calibrate, train, evaluate, save."""

from mho.ground.offers import offers

__getattr__, __all__ = offers(__name__, __file__)
