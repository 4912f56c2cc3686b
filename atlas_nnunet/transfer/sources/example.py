"""A key table as an example: for `--help` and for messages, apart because neither needs torch."""

EXAMPLE = """\
{"network": {"class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
             "arch_kwargs": {"n_stages": 6, "...": "as in a plan"},
             "requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]},
 "weights": "ema",                     the entry that holds the weights
 "prefix": ["module."],                stripped from keys that have it
 "keys": {"^trunk\\\\.": "encoder."},    pattern: replacement, in this order
 "drop": {"^proj\\\\.": "projection"},   pattern: reason
 "absent": {"^decoder\\\\.": "reason"},  parameters that the file does not have
 "channels": ["CT"], "heads": ["background", "liver"]}"""
