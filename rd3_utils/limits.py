"""Limits, one line each: what is refused before memory, time or a fetch is spent on it. docs/limits.md is made of this file.

They are far above what anybody measures here and far below what stops a machine; whoever needs more changes the line.
"""

# files that somebody else wrote
MOST_JSON_BYTES = 4_000_000  # of a Run, a record, a config.json or a distilled.json; a Run of 1000 epochs has 0.15 MB
MOST_INDEX_BYTES = 16_000_000  # of a label store's index.json; 1000 shards have 1 MB
MOST_YAML = 1_000_000  # characters of a card's front matter; that of ImageNet-1K has 0.05 million
MOST_TOML_BYTES = 4_000_000  # of a protocol, benchmark or study; that of ImageNet-1K's classes has 0.1 MB
DEEPEST = 20  # tables and lists in one another in a JSON file; a Run has 7
LONGEST_KEY = 50  # parts of one dotted key of a TOML file; the time and memory to read it grow with their square
LONGEST_TEXT = 200  # characters of a text that a Run states
LONGEST_SHOWN = 60  # characters of a value in a message
WHOLE = 2**63  # whole numbers of a file stay below
MOST_WEIGHTS_BYTES = 500_000_000  # of a network that a leaderboard scores again; ViT-B has 343 MB
MOST_HEADER_BYTES = 10_000_000  # of a label shard beyond its tensors; ours have 0.003 MB

# images and tensors
MOST_SET_BYTES = 64_000_000_000  # of the pixels of one image set
MOST_IMAGE_BYTES = 200_000_000  # of one image file; the largest of ImageNet has 15 MB
MOST_IMAGE_PIXELS = 89_478_485  # of one image, by its header; Pillow warns from here on
LARGE_IMAGE_PIXELS = 10_000_000  # from which images are decoded one at a time, whatever the number of threads
MOST_WIDTH = 65_536  # of what a config.json states of a network: classes, widths, layers, pixels
MOST_PICKLE_BYTES = 10_000_000  # of a file of torch.save beside its tensors; a checkpoint of 1000 epochs has 0.2 MB
MOST_FREELY_PACKED = 50_000_000  # bytes that a parquet file may have once it is unpacked, however small it is
MOST_EXPANSION = 100  # times its size that it may have else
MOST_ROWS = 100_000_000  # of a table; ImageNet-21K has 14 million

# what a command is asked for
MOST_EPOCHS = 1_000_000  # of a training, its warm-up and its labels; released protocols have at most 3000
MOST_NUMBER = 1_000_000_000  # of a whole number that a knob or an option is
MOST_FLOAT = 3.4e38  # of any other number of a knob; float32 ends here
MOST_OPERATIONS = 100  # of RandAugment in one view; a label store has a column for each
MOST_TEACHERS = 100  # of one label
MOST_SIDE = 4_096  # pixels of an image's shorter side, as a network or a resize has it
MOST_LISTED = 1_000  # values of a knob that is a list
MOST_SEEDS = 10_000  # of one command
MOST_DRAWS = 1_000  # of random images in one command
MOST_WORKERS = 1_024  # threads or cells at a time
MOST_CELLS = 200_000  # students that one study may have
MOST_FORWARD_BATCH = 100_000  # views in one pass of a teacher, which a smaller number is padded to
LONGEST_WORD = 100_000  # characters of one word of a command

# what is read of strangers' folders, repos and boards
MOST_RUNS_OF_ONE = 20_000  # Runs read of one folder or repo on a board
MOST_RUNS = 50_000  # of all on a board
MOST_LOOKED_AT = 1_000_000  # files and folders in one folder of a board
MOST_APART = 2_000  # files of a board kept apart that are named; more are counted
MOST_REPOS = 500  # of a tag that a board reads
MOST_DATASETS = 100  # dataset repos that a board asks how their images were made
MOST_SETS = 50  # image sets of one of them
MOST_KNOBS = 50_000  # characters of the knobs of a Run's protocol as JSON; ours have at most 4,000
MOST_VERIFIED = 20_000  # files and folders in one SOURCE of verify
MOST_FETCHED = 5_000  # files of one repo that verify fetches
MOST_NETWORK_BYTES = 4_000_000_000  # of a network in a repo that verify fetches
MOST_TEST_SIDE = 2_048  # pixels per side of a test image, as a Run says it was resized
MOST_LINES = 3_000  # of a card that verify compares
MOST_NETWORKS = 200  # that are built to count their parameters, of all Runs that one command reads
MOST_RERUNS = 50  # results of one student that a board compares
MOST_KINDS = 100  # of labels or learning rates, of Runs of a board that are one row but for those
MOST_UNPACKED_AT_ONCE = 1_000_000_000  # bytes that rows of a parquet file may have which are unpacked together
MOST_LABELLED_AGAIN = 65_536  # views of a forward batch that an index may ask for
