# make demo | make test | make bench: each sets up .venv from requirements.txt when needed.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results/demo

.PHONY: demo test test-slow bench embedded

.venv/ready: requirements.txt tests/requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setting up .venv (about 6 GB, a few minutes on the first run)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@touch .venv/ready

# The main job on the embedded benchmark: {random, distilled} images x {hard-label-v1, rd3-v1} at IPC 1, 3 draws, 3 seeds.
demo: .venv/ready
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml train_student.py --protocol hard-label-v1 \
		--arms distilled-hard,random-hard --seeds 0,1,2 --out $(RESULTS)
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml train_student.py --protocol rd3-v1 \
		--arms distilled-soft,random-soft --seeds 0,1,2 --teacher default --out $(RESULTS)

# Three processes of one thread each, by file: on two cores one works while another waits for a Hub that is away.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# Side-by-side measurements: ratios of two things run alternately.
bench: .venv/ready
	$(BIN)/python -m bench.views
	$(BIN)/python -m bench.memory

# How everything in rd3_utils/embedded was made. The folders must not exist yet. One thread: the last bits depend on it.
embedded: export OMP_NUM_THREADS = 1
embedded: .venv/ready
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml train_student.py --distilled full --arms full-hard \
		--out results/embedded
	cp -r results/embedded/digits/teacher-v1-*/full@*/convnet3/full-hard/seed0 rd3_utils/embedded/digits-teacher-convnet3
	cp results/embedded/digits/teacher-v1-*/full@*/convnet3/full-hard/seed0.json rd3_utils/embedded/digits-teacher-convnet3/run.json
	for ipc in 1 10; do $(BIN)/python -m rd3_utils synthesize dm --benchmark digits --ipc $$ipc \
		--out rd3_utils/embedded/digits-dm-ipc$$ipc; done
