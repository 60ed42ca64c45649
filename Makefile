# The verbs of Belvedere. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up down info test lint unit roles platform faults changes alarms bench explain profile docs lock

# A set PYTHONUNBUFFERED slows Ansible's pipelining down.
unexport PYTHONUNBUFFERED
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PLAYBOOK := ansible-playbook
STAGES := python tools/stages.py

help: ## List the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/installed: requirements.txt tools/bootstrap
	@tools/bootstrap

up: .venv/installed ## From nothing to a running, smoke-tested platform on this machine
	@$(STAGES) 'hosts: $(PLAYBOOK) playbooks/local_hosts.yml' 'platform: $(PLAYBOOK) site.yml' 'smoke test: $(PLAYBOOK) playbooks/verify.yml'
	@$(MAKE) --no-print-directory info

down: .venv/installed ## Remove the local hosts and their network; .state/ stays
	@$(PLAYBOOK) playbooks/local_hosts.yml -e local_hosts_state=absent

info: .venv/installed ## Say where everything is, what was left out, and what it takes at rest
	@$(PLAYBOOK) playbooks/info.yml

test: .venv/installed ## Everything that CI runs
	@$(STAGES) 'lint and unit: $(MAKE) --no-print-directory --jobs 2 lint unit' 'roles: $(MAKE) roles' 'up: $(MAKE) up' \
	  'platform: $(MAKE) platform'

lint: .venv/installed ## Style, types, and configuration, without any host
	@$(STAGES) 'ruff: ruff check . && ruff format --check .' 'mypy: mypy' 'yamllint: yamllint --strict .' \
	  'ansible-lint: ansible-lint --offline --strict' \
	  "shellcheck: git grep -lE '^#!/(usr/)?bin/(env )?(ba)?sh' -- ':!*.j2' | xargs shellcheck" \
	  'generated files: python tools/role_readmes.py --check && python -m dashboards --check && $(PLAYBOOK) playbooks/flow_table.yml --check' \
	  'alert rules: tools/check-rules' 'migrations: python tools/check_migrations.py'

unit: .venv/installed ## The apps against a real PostgreSQL and Redis, argument specs, filters
	@tools/apt postgresql redis-server
	@pytest -n 2 apps tests/unit

roles: .venv/installed ## Each role's scenario, or one: make roles ROLE=pgbouncer
	@$(PLAYBOOK) playbooks/engine.yml
	@python tests/roles.py $(ROLE)

platform: .venv/installed ## Ask the running platform, from outside
	@tools/apt chromium
	@pytest tests/platform

faults: .venv/installed ## Break the running local platform, fault by fault (a quarter of an hour), and count what it cost
	@pytest tests/faults

changes: .venv/installed ## Deploy, update, renew, replace and rotate on the running local platform under load (two hours), and run site.yml again
	@pytest tests/changes

alarms: .venv/installed ## Break the running local platform until each alert fires, and see who is told
	@pytest tests/alarms

bench: .venv/installed ## How fast the services are, as ratios: a table, its history and its picture in docs/bench.md
	@tools/apt postgresql pgbouncer nginx libnginx-mod-http-set-misc wrk
	@cd tests && python -m bench $(ARGS)

explain: .venv/installed ## One request's story, spans and log lines: make explain ID=<its X-Request-Id>
	@python tools/explain.py $(or $(ID),$(error say which: make explain ID=<the X-Request-Id of an answer>))

profile: .venv/installed ## A flame graph of a running instance: make profile SERVICE=auth [SECONDS=10] [HOST=app1]
	@python tools/profile_instance.py $(or $(SERVICE),$(error say which: make profile SERVICE=auth)) --seconds $(or $(SECONDS),10) $(addprefix --host ,$(HOST))

docs: .venv/installed ## Write what is generated: roles' READMEs, dashboards, the flow table
	@python tools/role_readmes.py
	@python -m dashboards
	@$(PLAYBOOK) playbooks/flow_table.yml

lock: .venv/installed ## Resolve requirements anew, with hashes
	@pip --quiet install uv
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-find-links requirements.in -o requirements.txt
	@uv pip compile --quiet --python-version 3.13 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-find-links apps/requirements.in -o apps/requirements.txt
