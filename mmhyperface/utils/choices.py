"""What the options of the tools may be, in a module that does without torch.

``--help`` is asked often, and is to come at once: whoever computes imports its choices
from here.
"""

#: Of TAR@FAR.
TARS = {
    'exact': 'exact, ties with the threshold rejected',
    'linear': 'linear interpolation of the ROC',
    'nearest': 'the point of the ROC with the nearest FAR',
}
#: Whose threshold an accuracy has.
ACCURACIES = {
    'exact': 'the threshold that is best on the other folds, exactly',
    'grid': "the best d² of insightface's grid on the other folds",
    'global': 'one threshold fitted on all pairs (no folds, no std)',
}
#: Of a list of pairs that does not tell of its own folds.
FOLDS = 10
#: Of TPIR@FPIR.
THRESHOLDS = {
    'exact': 'the (⌊FPIR·n⌋ + 1)-th highest of the n non-mated probes',
    'insightface': "insightface's max(⌊FPIR·n⌋, 1)-th highest of n non-mated probes",
}
#: How features of images become those of templates.
NORMS = {'keep': 'norm kept', 'unit': 'brought to length 1'}
MEDIA = {
    'mean': 'mean over the images of a medium, sum over media',
    'none': 'sum over images, whatever their medium',
}
#: What is done to the noisy images of MegaFace.
NOISE = ('remove', 'overwrite')
#: Of IJB: both subsets with their galleries, and both protocols.
SUBSETS = {'IJBB': ('S1', 'S2'), 'IJBC': ('G1', 'G2')}
PROTOCOLS = ('1:1', '1:N')
#: How an image and its mirror image make one embedding.
FLIP_FUSIONS = ('sum', 'none', 'concat')
#: Crops that pass through a network at a time.
BATCH_SIZE = 32
#: Larger pictures are refused.
MAX_MEGAPIXELS = 50
#: Of an ONNX graph: every client reads it; older ones write some parts in other ways.
OPSET = 13
#: Largest difference of cosines between an export and its network, by precision.
TOLERANCES = {'fp32': 1e-4, 'fp16': 1e-2}
#: Of SFNet without batch norm.
SFNET_VARIANTS = ('paper', 'opensphere')
#: Of OpenSphere's program: its checkpoints are two files, or one.
REVISIONS = ('2022', '2023')
#: Who trains SFace's networks, by the name of the option.
ORIGINS = {'sface': 'SFace', 'evolve': 'face.evoLVe'}
#: The order in which CVLface's networks take channels.
CHANNELS = ('rgb', 'bgr')
