// The browser client of Tracewire: one ES module, without a build step and without dependencies.
//
// It connects, waits for `ready`, acknowledges what it processed, notices gaps and repeats, resumes after a lost
// connection, renews its token, and holds each run's receipt against what came. Types are in tracewire.d.ts.

const SUBPROTOCOLS = ["tracewire.v1.lines", "tracewire.v1"];
const TERMINAL = new Set(["agent_completed", "agent_error", "agent_cancelled"]);
const NO_RECONNECT = new Set([1002, 1003, 1007, 1008, 1009]);
const TRANSIENT = new Set(["draining", "log_unavailable", "not_ready", "rate_limited"]);
const ACK_EVENTS = 16;
const ACK_MS = 100;
const READY_MS = 15_000;
const BACKOFF_MS_MIN = 200;
const BACKOFF_MS_MAX = 10_000;
const STABLE_MS = 5_000; // a connection that was ready for so long starts the next backoff anew
const SILENT_HEARTBEATS = 2;
const RENEW_MARGIN_MS = 120_000; // above the minute to which browsers throttle the timers of a hidden page
const RENEW_MS_MIN = 5_000;
const TIMER_MS_MAX = 2 ** 31 - 1; // a longer timer fires at once
const FRUITLESS_RESUMES_MAX = 3;
const FINISHED_MAX = 100;

/** What this client raises on purpose. `code` is the wire's, or `closed`; `closeCode` the socket's, where it had one. */
export class TracewireError extends Error {
  constructor(code, message, { closeCode = null, retryAfterMs = null } = {}) {
    super(message);
    this.name = "TracewireError";
    this.code = code;
    this.closeCode = closeCode;
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * One run: an async iterable of its envelopes, in order, once each, from the first to the terminal one.
 * Dispatches `event` (detail: the envelope), `end` (detail: the terminal envelope) and `error` (detail: the error).
 */
export class Run extends EventTarget {
  #client;
  #changed = deferred();
  #acked = 0;
  #count = 0;
  _resuming = false;
  _fruitless = 0;

  constructor(client, { runId, requestId = null, threadId = null, agent = null, onEvent = null }) {
    super();
    this.#client = client;
    Object.assign(this, { runId, requestId, threadId, agent });
    this.events = [];
    this.received = {};
    this.lastSeq = 0;
    this.terminal = null;
    this.error = null;
    if (onEvent) this._tell(onEvent);
  }

  /** Call this for each event: for those that have come before at once, then for each as it comes. */
  _tell(onEvent) {
    const came = [...this.events];
    this.addEventListener("event", ({ detail }) => onEvent(detail));
    for (const envelope of came) onEvent(envelope);
  }

  get receipt() {
    return this.terminal?.data.receipt ?? null;
  }

  /** Whether the run has ended and exactly what its receipt says has come; `null` until it has ended. */
  get receiptAgrees() {
    const { receipt } = this;
    if (receipt === null) return null;
    const types = new Set([...Object.keys(receipt.counts), ...Object.keys(this.received)]);
    return receipt.last_seq === this.lastSeq && [...types].every((type) => receipt.counts[type] === this.received[type]);
  }

  async *[Symbol.asyncIterator]() {
    for (let next = 0; ; next += 1) {
      while (next >= this.events.length) {
        if (this.terminal) return;
        if (this.error) throw this.error;
        await this.#changed.promise;
      }
      yield this.events[next];
    }
  }

  /** The terminal envelope, when it has come. */
  async ended() {
    while (!this.terminal) {
      if (this.error) throw this.error;
      await this.#changed.promise;
    }
    return this.terminal;
  }

  cancel() {
    this.#client._send({ type: "cancel_run", run_id: this.runId });
  }

  provideInput(inputId, value) {
    this.#client._send({ type: "provide_input", run_id: this.runId, input_id: inputId, value });
  }

  /** Take an envelope: true where it was new, false where it had come before, null where one before it is missing. */
  _take(envelope) {
    const first = envelope.first_seq ?? envelope.seq;
    if (envelope.seq <= this.lastSeq) return false;
    // Deltas that were joined and of which a part came before cannot be cut apart: resuming gives them singly.
    if (first !== this.lastSeq + 1) return null;
    const events = envelope.seq - first + 1;
    this.received[envelope.type] = (this.received[envelope.type] ?? 0) + events;
    this.#count += events;
    this.lastSeq = envelope.seq;
    this.agent ??= envelope.agent;
    this._fruitless = 0;
    this.events.push(envelope);
    if (TERMINAL.has(envelope.type)) this.terminal = envelope;
    this.dispatchEvent(new CustomEvent("event", { detail: envelope }));
    if (this.terminal) this.dispatchEvent(new CustomEvent("end", { detail: envelope }));
    this.#wake();
    return true;
  }

  /** The ack that is due, or null. It counts as sent. */
  _ack() {
    if (this.#acked === this.lastSeq) return null;
    this.#acked = this.lastSeq;
    return { type: "ack", run_id: this.runId, seq: this.lastSeq, count: this.#count };
  }

  _fail(error) {
    if (this.terminal || this.error) return;
    this.error = error;
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
    this.#wake();
  }

  #wake() {
    const { resolve } = this.#changed;
    this.#changed = deferred();
    resolve();
  }
}

/**
 * One user's connection. Dispatches `state` (detail: state, code, reason, retryInMs), `ready` (detail: the frame), `run`
 * (detail: a Run that was started elsewhere, as in another tab) and `rejected` (detail: the frame).
 */
export class Tracewire extends EventTarget {
  #url;
  #token;
  #state = "offline";
  #wanted = false; // whether a connection is to be had
  #socket = null;
  #attempt = 0; // what an earlier attempt still brings is ignored
  #readyAt = 0;
  #lastFrameAt = 0;
  #backoffMs = BACKOFF_MS_MIN;
  #retryAfterMs = 0;
  #unacked = 0;
  #timers = {};
  #renewAt = Infinity;
  #renewing = false;
  #waiting = []; // connect() calls that wait for `ready`
  #starts = new Map(); // request id -> a start that is not answered yet
  #runs = new Map(); // run id -> a run of which something is still to come or to be acked
  #finished = new Map(); // run id -> last seq of runs that were acked to their end
  #listeners = new AbortController();

  /** `url`: the server's socket (http and https are read as ws and wss). `token`: a string, or gives a fresh one. */
  constructor(url, { token }) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#token = token;
    this.ready = null;
  }

  get state() {
    return this.#state;
  }

  /** Connect, and stay connected; gives the `ready` frame. Rejects where the server does not let this client in. */
  connect() {
    if (this.#state === "ready") return Promise.resolve(this.ready);
    const waiting = deferred();
    this.#waiting.push(waiting);
    this.#wanted = true;
    this.#backoffMs = BACKOFF_MS_MIN;
    this.#listen();
    if (this.#networkDown()) this.#setState("offline", { reason: "the network is down" });
    else this.#retryNow();
    return waiting.promise;
  }

  /** Go offline, and stay so until connect(): the runs are kept, and resumed then. */
  disconnect() {
    this.#stop();
    this.#setState("offline", { reason: "disconnected" });
  }

  /** Close for good: what is still open fails. */
  close() {
    this.#stop();
    this.#closed(1000, "closed by this page");
  }

  /** Start a run; gives it when the server has accepted it, durably. The same `requestId` again gives the same run. */
  start(input, { agent, threadId, requestId = newId(), traceparent, onEvent } = {}) {
    if (this.#state === "closed") return Promise.reject(new TracewireError("closed", "the connection is closed"));
    const pending = this.#starts.get(requestId);
    if (pending) {
      return pending.promise.then((run) => {
        if (onEvent) run._tell(onEvent);
        return run;
      });
    }
    const frame = { type: "start_run", request_id: requestId, input, agent, thread_id: threadId, traceparent };
    const start = { ...deferred(), frame, agent, onEvent };
    this.#starts.set(requestId, start);
    if (this.#state === "ready") this._send(frame);
    return start.promise;
  }

  /** Follow a run that was started before, as `ready.runs` lists it, from its first event. */
  resume(runId, { requestId, agent, onEvent } = {}) {
    let run = this.#runs.get(runId);
    if (!run) {
      run = new Run(this, { runId, requestId, agent, onEvent });
      this.#runs.set(runId, run);
      if (this.#state === "ready") this.#resume([run]);
    } else if (onEvent) run._tell(onEvent);
    return run;
  }

  // The connection.

  async #open() {
    const attempt = ++this.#attempt;
    clearTimeout(this.#timers.retry);
    this.#setState(this.ready ? "reconnecting" : "connecting");
    this.#timers.ready = setTimeout(() => this.#lost(null, `not ready within ${READY_MS / 1000} s`), READY_MS);
    try {
      const token = await this.#freshToken();
      if (attempt !== this.#attempt) return;
      this.#socket = new WebSocket(this.#url, [...SUBPROTOCOLS, `bearer.${token}`]);
    } catch (error) {
      if (attempt !== this.#attempt) return;
      if (error instanceof DOMException && error.name === "SyntaxError") {
        this.#stop();
        this.#closed(null, "the token holds characters that no token has");
      } else this.#lost(null, `no token: ${error?.message ?? error}`);
      return;
    }
    this.#socket.onmessage = ({ data }) => this.#receive(data);
    this.#socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  #lost(code, reason) {
    const wasStable = this.#readyAt && Date.now() - this.#readyAt > STABLE_MS;
    this.#drop();
    if (code !== null && (code >= 4500 || NO_RECONNECT.has(code))) {
      this.#closed(code, reason);
      return;
    }
    if (this.#networkDown()) {
      this.#setState("offline", { code, reason: reason || "the network is down" });
      return;
    }
    if (wasStable) this.#backoffMs = BACKOFF_MS_MIN;
    // Jitter, so that the clients of a server that went do not all come back in one moment.
    const retryInMs = this.#retryAfterMs + this.#backoffMs * (0.5 + Math.random() / 2);
    this.#backoffMs = Math.min(this.#backoffMs * 2, BACKOFF_MS_MAX);
    this.#retryAfterMs = 0;
    this.#timers.retry = setTimeout(() => this.#open(), retryInMs);
    this.#setState(this.ready ? "reconnecting" : "connecting", { code, reason, retryInMs });
  }

  /** Let go of the socket without waiting for its end, which a dead network would not bring. */
  #drop() {
    this.#attempt += 1;
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = {};
    this.#readyAt = 0;
    this.#renewAt = Infinity;
    this.#renewing = false;
    this.#unacked = 0;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close(1000);
  }

  #stop() {
    this.#sendAcks();
    this.#wanted = false;
    this.#drop();
  }

  #closed(code, reason) {
    this.#wanted = false;
    this.#listeners.abort();
    this.#setState("closed", { code, reason });
    const error = new TracewireError("closed", `the connection is closed: ${reason || code}`, { closeCode: code });
    for (const pending of [...this.#waiting.splice(0), ...this.#starts.values()]) pending.reject(error);
    for (const run of this.#runs.values()) run._fail(error);
    this.#starts.clear();
    this.#runs.clear();
  }

  #setState(state, { code = null, reason = "", retryInMs = null } = {}) {
    this.#state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, code, reason, retryInMs } }));
  }

  /** A page of this machine needs no network to reach its server: what the browser says of it is then not asked. */
  #networkDown() {
    const local = /^(localhost|127\.|\[::1\])/.test(this.#url.hostname);
    return !local && globalThis.navigator?.onLine === false;
  }

  #listen() {
    this.#listeners.abort();
    this.#listeners = new AbortController();
    const { signal } = this.#listeners;
    globalThis.addEventListener?.("offline", () => this.#wanted && this.#networkDown() && this.#lost(null, ""), { signal });
    globalThis.addEventListener?.("online", () => this.#retryNow(), { signal });
    globalThis.document?.addEventListener("visibilitychange", () => this.#visibilityChanged(), { signal });
  }

  #visibilityChanged() {
    if (document.hidden) this.#sendAcks(); // the timer that would send them is throttled from now on
    else {
      this.#watch();
      this.#retryNow();
    }
  }

  #retryNow() {
    if (!this.#wanted || this.#socket || this.#timers.ready) return;
    this.#backoffMs = BACKOFF_MS_MIN;
    this.#open();
  }

  #watch() {
    if (!this.#readyAt) return;
    const silentMs = SILENT_HEARTBEATS * this.ready.heartbeat_seconds * 1000;
    if (Date.now() - this.#lastFrameAt > silentMs) {
      this.#lost(null, `no frame for ${silentMs / 1000} s`);
      return;
    }
    clearTimeout(this.#timers.watch);
    this.#timers.watch = setTimeout(() => this.#watch(), silentMs / 4);
  }

  // The token.

  async #freshToken() {
    const token = typeof this.#token === "function" ? await this.#token() : this.#token;
    const claims = claimsOf(token);
    if (claims?.exp) this.#renewBefore(claims.exp);
    return token;
  }

  #renewBefore(expiresAtSeconds) {
    if (typeof this.#token !== "function") return;
    const leftMs = expiresAtSeconds * 1000 - Date.now();
    const inMs = Math.max(RENEW_MS_MIN, leftMs - Math.min(RENEW_MARGIN_MS, leftMs / 5));
    this.#renewAt = Date.now() + inMs;
    clearTimeout(this.#timers.renew);
    this.#timers.renew = setTimeout(() => this.#renewIfDue(), Math.min(inMs, TIMER_MS_MAX));
  }

  async #renewIfDue() {
    if (this.#renewing || !this.#readyAt || Date.now() < this.#renewAt) return;
    const attempt = this.#attempt;
    this.#renewing = true;
    try {
      const token = await this.#freshToken();
      if (attempt === this.#attempt) this._send({ type: "authenticate", token });
    } catch {
      if (attempt === this.#attempt) this.#renewBefore(0); // once more, soon: the old token stands until it expires
    } finally {
      if (attempt === this.#attempt) this.#renewing = false;
    }
  }

  // Frames in.

  #receive(text) {
    this.#lastFrameAt = Date.now();
    const attempt = this.#attempt;
    for (const line of text.split("\n")) {
      let frame;
      try {
        frame = JSON.parse(line);
      } catch {
        this.#lost(null, "the server sent what is no JSON");
        return;
      }
      if (typeof frame.seq === "number") this.#takeEnvelope(frame);
      else this.#takeFrame(frame);
      if (attempt !== this.#attempt) return;
    }
    if (this.#unacked && globalThis.document?.hidden) this.#sendAcks();
  }

  #takeFrame(frame) {
    switch (frame.type) {
      case "ready":
        this.#becomeReady(frame);
        break;
      case "run_accepted":
        this.#accepted(frame);
        break;
      case "resumed":
        this.#resumed(frame);
        break;
      case "rejected":
        this.#rejected(frame);
        break;
      case "ping":
        // Timers of a hidden page are throttled, frames are not.
        this._send({ type: "pong", id: frame.id });
        this.#renewIfDue();
        break;
      case "authenticated":
        this.#renewBefore(frame.expires_at);
        break;
      case "draining":
        this.#retryAfterMs = frame.retry_after_seconds * 1000;
        break;
    }
  }

  #becomeReady(frame) {
    clearTimeout(this.#timers.ready);
    this.ready = frame;
    this.#readyAt = Date.now();
    this.#watch();
    this.#resume([...this.#runs.values()]);
    for (const start of this.#starts.values()) this._send(start.frame);
    for (const { run_id, acked_seq } of frame.runs) {
      // Its last ack went out with a connection that was lost.
      const seq = this.#finished.get(run_id) ?? 0;
      if (seq > acked_seq) this._send({ type: "ack", run_id, seq, count: seq });
    }
    this.#setState("ready"); // after the above: who starts a run on hearing it would have it sent twice
    for (const waiting of this.#waiting.splice(0)) waiting.resolve(frame);
    this.dispatchEvent(new CustomEvent("ready", { detail: frame }));
  }

  #accepted({ request_id: requestId, run_id: runId, thread_id: threadId }) {
    const start = this.#starts.get(requestId);
    const known = this.#runs.get(runId);
    const run = known ?? new Run(this, { runId, requestId, threadId, agent: start?.agent, onEvent: start?.onEvent });
    this.#runs.set(runId, run);
    if (known) {
      known.requestId ??= requestId;
      known.threadId ??= threadId;
      if (start?.onEvent) known._tell(start.onEvent); // it was watched, and its events came before anybody asked
    } else if (this.#finished.has(runId)) {
      // It was had to its end while this start was under way: the server may still count it as followed.
      this.#resume([run]);
    }
    if (start) {
      this.#starts.delete(requestId);
      start.resolve(run);
    } else if (!known) this.dispatchEvent(new CustomEvent("run", { detail: run }));
  }

  #takeEnvelope(envelope) {
    const run = this.#runs.get(envelope.run_id);
    if (!run) return;
    const taken = run._take(envelope);
    if (taken === null) this.#fillGap(run);
    if (!taken) return;
    this.#unacked += 1;
    if (run.terminal || this.#unacked >= ACK_EVENTS) this.#sendAcks();
    else this.#timers.ack ??= setTimeout(() => this.#sendAcks(), ACK_MS);
  }

  #fillGap(run) {
    if (run._resuming) return;
    run._fruitless += 1;
    if (run._fruitless > FRUITLESS_RESUMES_MAX) {
      run._fruitless = 0;
      this.#lost(null, `events of run ${run.runId} do not come`);
      return;
    }
    this.#sendAcks();
    this.#resume([run]);
  }

  #resume(runs) {
    if (!runs.length) return;
    for (const run of runs) run._resuming = true;
    this._send({ type: "resume", runs: Object.fromEntries(runs.map((run) => [run.runId, run.lastSeq])) });
  }

  #resumed({ run_id: runId, recovered, reason }) {
    const run = this.#runs.get(runId);
    if (!run) return;
    run._resuming = false;
    if (!recovered) {
      this.#runs.delete(runId);
      run._fail(new TracewireError(reason, `run ${runId} cannot be resumed: ${reason}`));
    } else if (run.terminal) this.#finish(run); // the resume was the ack of its end
  }

  #rejected(frame) {
    const retryAfterMs = frame.retry_after_seconds === undefined ? null : frame.retry_after_seconds * 1000;
    const error = new TracewireError(frame.code, frame.message, { retryAfterMs });
    if (frame.frame === "start_run") {
      this.#starts.get(frame.request_id)?.reject(error);
      this.#starts.delete(frame.request_id);
    } else if (frame.frame === "resume") {
      this.#resumeRejected(frame.run_id, error);
    } else if (frame.frame === "authenticate") this.#renewBefore(0);
    this.dispatchEvent(new CustomEvent("rejected", { detail: frame }));
  }

  #resumeRejected(runId, error) {
    if (TRANSIENT.has(error.code)) {
      this.#retryAfterMs = error.retryAfterMs ?? 0;
      this.#lost(null, error.message);
      return;
    }
    this.#runs.get(runId)?._fail(error);
    this.#runs.delete(runId);
  }

  // Frames out.

  /** Send a frame, where there is a connection; whether there was. Starts and resumes are repeated by the next one. */
  _send(frame) {
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #sendAcks() {
    clearTimeout(this.#timers.ack);
    delete this.#timers.ack;
    this.#unacked = 0;
    if (this.#socket?.readyState !== 1) return;
    for (const run of this.#runs.values()) {
      const ack = run._ack();
      if (ack) this._send(ack);
      if (run.terminal && !run._resuming) this.#finish(run);
    }
  }

  #finish(run) {
    this.#runs.delete(run.runId);
    this.#finished.set(run.runId, run.lastSeq);
    if (this.#finished.size > FINISHED_MAX) this.#finished.delete(this.#finished.keys().next().value);
  }
}

function deferred() {
  let resolve, reject;
  const promise = new Promise((...settle) => ([resolve, reject] = settle));
  return { promise, resolve, reject };
}

/** `crypto.randomUUID` is there in secure contexts alone. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What a JWT says about itself, to know when to renew it; null where the token is none. */
function claimsOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return null;
  }
}
