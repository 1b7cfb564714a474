"""What a data set says of its test sets in ``metainfo['test_sets']``.

It is a dict from the name of a set to a dict, whose ``kind`` says what a metric finds
there: 'pairs' (:mod:`.pair_sets`), 'templates' (:mod:`.template_sets`) or 'megaface'
(:mod:`.megaface_images`). Image i of a set is item ``offset + i`` of the data set, and
it has ``num_images`` of them. Images are items of the data set, each once.
"""
