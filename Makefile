# The two commands that a newcomer needs are `make run` and `make test`.
GO         ?= go
BIN        := bin/sluice
LDFLAGS    := -s -w -X main.version=$(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME   ?= 10s

.PHONY: build run test race fuzz lint fmt docs bench peers faults loadtest soak accuracy caching clean

build: ## the binary, bin/sluice
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) .

run: build ## the gateway with demo backends inside it
	$(BIN) demo

test: ## every test; gets the real servers that it needs
	./deploy/test-servers.sh
	$(GO) test ./...

race: ## every test under the race detector
	$(GO) test -race -short ./...

fuzz: ## each fuzz target for FUZZTIME
	./deploy/fuzz.sh $(FUZZTIME)

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run make fmt"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

fmt: ## format the code
	gofmt -w .

docs: ## docs/configuration.md from the code
	$(GO) generate ./config

bench: ## Go micro-benchmarks with allocation counts
	$(GO) test -run '^$$' -bench . -benchmem $(ARGS) ./...

peers: ## Sluice beside nginx, HAProxy and others; ARGS="-rounds 5 -workload plain"
	$(GO) run ./bench/peers $(ARGS)

faults: ## outages: Sluice beside HAProxy and nginx; ARGS="-scenarios hang -contenders sluice"
	$(GO) run ./bench/faults $(ARGS)

soak: build ## memory under large transfers, reloads under load; ARGS="-only memory"
	$(GO) run ./loadtest/soak -binary $(BIN) $(ARGS)

accuracy: ## limits by real processes, and floods of bad tokens; ARGS="-only flood -seconds 10"
	$(GO) run ./loadtest/limits $(ARGS)

caching: ## the cache under load: stampedes, evictions, purges; ARGS="-only purge"
	$(GO) run ./loadtest/caching $(ARGS)

MODE ?= rate
URL  ?= http://127.0.0.1:8080/
loadtest: ## load your own deployment; MODE=warmup|rate|step|closed URL=... ARGS="-r 1000"
	loadtest/run.sh $(MODE) $(ARGS) $(URL)

clean:
	rm -rf bin
