"""The measured thresholds of the numpy kernels: when a kernel is worth its calls, and which variant is fastest.

`pooling` chooses kernels by them, and `stage_cost`, which cannot import torch, estimates the chosen ones.

Each constant says what it decides and names the rows of the kernel benchmark that show its effect. To move one, run
those rows before and after the change, on one thread of an otherwise idle machine:

    python tests/bench/kernels.py --only WORD

The thresholds of tiles depend only on the shape of a plane, because another kernel may change the last bit of a tile's
mean. All others choose between kernels with the same bits. The last section bounds memory, not time.
"""

# --- Sliding windows by gathering: numpy_kernels/gather.py, chosen in numpy_kernels/window_kernels.py ---

#: Values in all windows of a batch up to which gathering them is faster than combining slices, which takes about
#: twenty calls. Rows: --only "8x8x8", "512x7x7", "1x32x32", "1x64x64".
GATHER_MAX_VALUES = 2**16

#: The same limit for windows that skip columns. It is higher, because slices read the skipped values too.
#: Rows: --only "stride=2".
GATHER_MAX_VALUES_STRIDED = 2**17

#: Number of planes from which one call per position in the window is faster than one call that walks from plane to
#: plane. Rows: --only "64x8x8" against "8x8x8".
GATHER_MANY_PLANES = 32

#: Positions in a window up to which `GATHER_MANY_PLANES` applies. Larger windows are gathered whole, up to
#: `GATHER_MAX_VALUES_STRIDED` values, because all their values lie in memory before any is compared.
#: Rows: --only "64x8x8".
GATHER_MAX_POSITIONS = 32

# --- Sliding windows by slices: numpy_kernels/shifted_slices.py, chosen in numpy_kernels/window_kernels.py ---

#: Values in all windows of a batch from which slices are worth their calls. Rows: --only "3x224x224", "64x28x28".
SLICE_MIN_VALUES = 20_000

#: Values in a row of a plane from which slices are worth their calls. Rows: --only "64x8x14x14", "512x7x7".
SLICE_MIN_ROW = 14

#: Kernel size up to which slices find extremes faster than torch. Rows: --only "3x64x64".
SLICE_MAX_EXTREME_KERNEL = 32

#: Kernel size up to which slices add faster than torch. Rows: --only "3x64x64".
SLICE_MAX_SUM_KERNEL = 7

#: Values in a contiguous run up to which torch combines strided rows faster than numpy, whose cost per run dominates
#: if runs are short. Rows: --only "64x56x56" against "3x224x224".
SLICE_MAX_TORCH_RUN = 128

# --- Sliding windows of any size: numpy_kernels/sliding_*.py ---

#: How often the windows of a plane read each of its values on average from which combining blocks finds extremes faster
#: than torch. Rows: --only "MaxPool2d(kernel_size=33, stride=1", "3x112x112".
SLIDING_MIN_VISITS_EXTREME = 8

#: Values from which a plane counts as large for the next two limits: the time of one call into torch, which cannot be
#: interrupted, grows with the size of a plane.
SLIDING_LARGE_PLANE = 2**22

#: The same limit for sums, which have other bits then: of planes that are not large, and of large ones.
#: Rows: --only "AvgPool2d(kernel_size=8, stride=1)", "AvgPool2d(kernel_size=33, stride=1)".
SLIDING_MIN_VISITS_SUM = (32, 16)

#: Positions in a window above which sums are added by blocks: in planes that are not large, and in large ones.
#: Rows: --only "AvgPool2d(kernel_size=7, stride=1)", "AvgPool2d(kernel_size=8, stride=1)".
SLIDING_MIN_POSITIONS_SUM = (64, 16)

#: Values that are combined at a time, in the caches of a core. Rows: --only "1x300x300".
SLIDING_BLOCK_VALUES = 2**16

#: Values of planes that are pooled at a time; a window taller than a third of a plane needs the whole plane.
#: Rows: --only "1x300x300".
SLIDING_BAND_VALUES = 2**18

# --- Tiles of the adaptive operators: numpy_kernels/adaptive.py ---

#: Values in all tiles of a plane up to which gathering them is faster than combining rows and then columns: for an
#: extreme, for the mean of equal tiles that overlap, and for the mean of tiles that do not.
#: Rows: --only "AdaptiveMaxPool2d(", "AdaptiveAvgPool2d(".
TILE_GATHER_MAX_EXTREME = 4096
TILE_GATHER_MAX_OVERLAPPING = 1024
TILE_GATHER_MAX_DISJOINT = 512

#: Rows of tiles above which torch is faster. Rows: --only "output_size=3".
TILE_MAX_ROWS = 32

# --- All operators ---

#: Values in a result up to which counting its nonzero values is faster than comparing them with zero first, see
#: numpy_kernels/signed_zeros.py. Rows: --only "8x8x8", "64x56x56".
ZERO_CHECK_MAX_COUNTED = 2048

#: Values from which float16 and bfloat16 are worth converting to float32 and back, see numpy_kernels/half_precision.py.
#: Rows: --only "x32x32 torch.float16", "x32x32 torch.bfloat16".
HALF_MIN_VALUES = 4096

# --- Bounds on the memory of what is cached; cache.py bounds the caches themselves ---

#: Positions of one plane's windows that are cached as gather indices, 8 bytes each.
CACHED_GATHER_POSITIONS = 2**14

#: Windows of a plane up to which the divisors of their means are cached rather than computed per call.
CACHED_DIVISORS = 2**12

#: Tiles of a plane, and columns that they hold, above which torch pools them, because what a kernel caches grows with
#: both numbers.
CACHED_TILES = 2**12
CACHED_COLUMNS = 2**14

# --- Filters and second-order pooling: torch_operators/filters.py, torch_operators/second_order.py ---

#: Number of channels from which torch's kernel for one filter per channel is faster than filtering one dimension after
#: the other, for planes of float32. It works on blocks of 16 channels. Rows: --only "BlurPool2d".
BLUR_MIN_CHANNELS = 16

#: Kernel size in both dimensions, and values of a sample times the larger kernel size, from which the same holds. The
#: passes over fewer values stay in the caches. Rows: --only "BlurPool2d".
BLUR_MIN_KERNEL = 3
BLUR_MIN_VISITS = 200_000

#: Number of iterations up to which the square root of covariances is computed in float32. The rounding errors of
#: eigenvalues near 0 grow by a factor of 1.5 in each iteration, so more of them are computed in float64.
SQUARE_ROOT_FLOAT32_ITERATIONS = 8

# --- Precision of sums: torch_operators/. tests/layers/test_accuracy.py, marked long, shows the effect ---

#: Values that a kernel of torch adds in one sum. It adds them one after the other, or in few partial sums, so its error
#: grows with their number; longer sums are added in parts. Of a product of matrices, of a tile of adaptive_avg_pool,
#: and of a bag of embedding_bag.
PRODUCT_MAX_ADDED = 4096
TILE_MAX_ADDED = 512
BAG_MAX_ADDED = 1024

#: Values of a plane up to which torch's softmax, which adds them, is exact enough.
SOFTMAX_MAX_ADDED = 2**16

# --- Parameters with several numbers: torch_operators/channel_parameters.py ---

#: Numbers of a parameter up to which the channels of each number are pooled in a call of their own. A power with a
#: single exponent such as 2 is a product, and takes a fraction of the time of a power with one exponent per channel.
PARAMETER_GROUPS = 4

# --- Bounds on the memory of a call, and on the time until a call notices that nobody waits for it ---

#: Bytes of planes and of their results that are pooled at a time: windows, whose kernels pass over the planes several
#: times, and tiles and whole planes. Rows: --only "192x224x224".
WINDOW_GROUP_BYTES = 2**20
TILE_GROUP_BYTES = 2**22

#: Values of a plane up to which its integers are converted to floats at once: in larger ones a call adds them as
#: integers, or converts one row of tiles at a time. Rows: --only "224x224 torch.uint8".
MAX_WIDENED_VALUES = 2**20

#: Positions in a window up to which sums that need something of each window visit position by position. Above, all
#: values of all windows are gathered, if they take no more than WINDOW_MAX_GATHERED times the memory of the planes.
WINDOW_MAX_VISITS = 64
WINDOW_MAX_GATHERED = 16

#: Pixels of bins, values of the result, and points of boxes that are computed at a time, and values that are gathered
#: before their maximum is found; see torch_operators/regions_of_interest.py. They stay in the caches.
BOX_PIXELS = 2**17
BOX_VALUES = 2**20
BOX_POINTS = 2**16
BOX_GATHERED = 2**17

#: Values of a sample that are widened to float64 at a time, and products that are sketched at a time; see
#: torch_operators/second_order.py.
WIDENED_AT_ONCE = 2**18
SKETCHED_AT_ONCE = 2**20

#: Values of windows that are sorted at a time, on a CPU, where they stay in the caches, and on a GPU; see
#: torch_operators/window_pieces.py.
PIECE_VALUES = 2**18
GPU_PIECE_VALUES = 2**26

#: Bytes of channels, as float32, that an operator with several passes over its intermediates pools at a time.
SAMPLE_GROUP_BYTES = 2**20
