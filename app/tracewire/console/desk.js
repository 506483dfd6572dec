// The run that is looked at: its drawing, its receipt, its answer. Live ones come over the socket, past ones over HTTP.

import { Answer } from "/console/answer.js";
import { ChainDrawing } from "/console/chain.js";
import { byId } from "/console/element.js";
import { hideReceipt, showReceipt } from "/console/receipt.js";

const LOOK_MS = 700; // how often the ledger of an open run is looked at when nothing comes
const LOOK_AFTER_EVENT_MS = 120; // above the client's longest wait before an ack: it is in the ledger then
const LOOK_AFTER_FAILURE_MS = 2_000;

export class Desk {
  #api;
  #client;
  #chain = new ChainDrawing();
  #answer = new Answer();
  #runs = new Map(); // run id -> what came over the socket, for as long as the page lives
  #shown = null; // { runId, signal }
  #stop = new AbortController();
  #nudge = () => {};

  /** `announce` tells screen readers; `changed` is called when a run begins or ends. */
  constructor({ announce, changed }) {
    this.announce = announce;
    this.changed = changed;
    byId("cancel").addEventListener("click", () => this.#cancel());
  }

  signIn(api, client) {
    this.#api = api;
    this.#client = client;
  }

  signOut() {
    this.#runs.clear();
    this.#leave();
  }

  get shownRunId() {
    return this.#shown?.runId ?? null;
  }

  /** Whether the run that is looked at is still open. */
  get isOpen() {
    const run = this.#runs.get(this.shownRunId);
    return Boolean(run && !run.terminal && !run.error);
  }

  knows(runId) {
    return this.#runs.has(runId);
  }

  /** Keep a live run up to date, whether or not it is looked at. */
  track(run) {
    if (this.#runs.has(run.runId)) return;
    this.#runs.set(run.runId, run);
    run.addEventListener("event", ({ detail }) => this.#came(run, detail));
    run.addEventListener("error", ({ detail }) => this.#showState(run, detail.message));
  }

  /** Look at a live run. */
  showLive(run) {
    this.track(run);
    this.#leave();
    this.#look(run.runId);
    for (const envelope of run.events) this.#draw(run, envelope);
    this.#showState(run);
    this.#poll();
  }

  /** Look at a run of the past; `view` is the server's of it. */
  async showPast(view) {
    const live = this.#runs.get(view.run_id);
    if (live) {
      this.showLive(live);
      return;
    }
    this.#leave();
    this.#look(view.run_id);
    const { signal } = this.#shown;
    byId("run-line").textContent = lineOf(view.agent, view.state, view.run_id);
    const [envelopes, ledger] = await Promise.all([this.#api.events(view.run_id), this.#api.ledger(view.run_id)]);
    if (signal.aborted) return;
    for (const envelope of envelopes) {
      this.#chain.describe(envelope);
      this.#answer.take(envelope);
    }
    this.#chain.showLedger(ledger);
    showReceipt(envelopes, "are in the log");
  }

  #look(runId) {
    this.#stop = new AbortController();
    this.#shown = { runId, signal: this.#stop.signal };
    byId("no-run").hidden = true;
    byId("chain-drawing").hidden = false;
  }

  #leave() {
    this.#stop.abort();
    this.#shown = null;
    this.#chain.clear();
    this.#answer.clear();
    hideReceipt();
    byId("run-line").textContent = "";
    byId("cancel").hidden = true;
    byId("chain-drawing").hidden = true;
    byId("no-run").hidden = false;
  }

  #came(run, envelope) {
    if (run.runId === this.shownRunId) {
      this.#draw(run, envelope);
      this.#showState(run);
      this.#nudge();
    }
    if (run.terminal) {
      const agrees = run.receiptAgrees ? "the receipt agrees" : "the receipt differs";
      this.announce(`Run ${stateOf(run)}: ${run.lastSeq} events, ${agrees}.`);
      this.changed();
    }
  }

  #draw(run, envelope) {
    this.#chain.came(envelope);
    this.#answer.take(envelope, run.terminal ? null : (inputId, value) => run.provideInput(inputId, value));
  }

  #showState(run, problem = "") {
    if (run.runId !== this.shownRunId) return;
    byId("run-line").textContent = problem || lineOf(run.agent, stateOf(run), run.runId);
    byId("cancel").hidden = !this.isOpen;
    showReceipt(run.events, "came to this page");
  }

  /** Look at the ledger until the run is settled: soon after each event, and from time to time. */
  async #poll() {
    const { runId, signal } = this.#shown;
    while (!signal.aborted) {
      const ledger = await this.#api.ledger(runId).catch(() => null);
      if (signal.aborted) return;
      if (ledger) this.#chain.showLedger(ledger);
      const run = this.#runs.get(runId);
      if (ledger?.settled && (run.terminal || run.error)) return;
      await new Promise((resolve) => {
        const late = setTimeout(resolve, ledger ? LOOK_MS : LOOK_AFTER_FAILURE_MS);
        this.#nudge = () => {
          clearTimeout(late);
          this.#nudge = () => {};
          setTimeout(resolve, LOOK_AFTER_EVENT_MS);
        };
        signal.addEventListener("abort", resolve, { once: true });
      });
    }
  }

  async #cancel() {
    const run = this.#runs.get(this.shownRunId);
    if (!run) return;
    if (this.#client.state === "ready") run.cancel();
    else await this.#api.cancel(run.runId).catch((error) => this.announce(error.message));
  }
}

function stateOf(run) {
  return run.terminal ? run.terminal.type.replace("agent_", "") : run.lastSeq ? "running" : "accepted";
}

function lineOf(agent, state, runId) {
  return `${agent ?? "agent"} · ${state} · ${runId}`;
}
