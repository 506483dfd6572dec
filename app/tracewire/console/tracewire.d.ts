/** The browser client of Tracewire. A local copy needs `tracewire.js`, `tracewire.d.ts` and `frames.d.ts`. */

import type { Envelope, EventType, Ready, Receipt, Rejected, TerminalEnvelope } from "./frames.d.ts";

export type * from "./frames.d.ts";

export type State = "connecting" | "ready" | "reconnecting" | "offline" | "closed";

export interface StateChange {
  state: State;
  /** The code with which the socket was closed, where that is the cause. */
  code: number | null;
  reason: string;
  /** When the next attempt comes, where one was put off. */
  retryInMs: number | null;
}

export class TracewireError extends Error {
  /** The wire's `rejected` code, the reason why a run cannot be resumed, or `closed`. */
  readonly code: string;
  readonly closeCode: number | null;
  readonly retryAfterMs: number | null;
}

interface RunEvents {
  event: CustomEvent<Envelope>;
  end: CustomEvent<TerminalEnvelope>;
  error: CustomEvent<TracewireError>;
}

/**
 * One run: an async iterable of its envelopes, in order, once each, from the first to the terminal one, however late it
 * is asked. It throws a `TracewireError` where the run cannot be followed to its end.
 */
export class Run extends EventTarget implements AsyncIterable<Envelope> {
  private constructor();
  readonly runId: string;
  readonly requestId: string | null;
  readonly threadId: string | null;
  readonly agent: string | null;
  /** Everything that came so far. */
  readonly events: readonly Envelope[];
  /** How many events of each type came; joined deltas are counted singly. */
  readonly received: Readonly<Partial<Record<EventType, number>>>;
  readonly lastSeq: number;
  readonly terminal: TerminalEnvelope | null;
  readonly error: TracewireError | null;
  readonly receipt: Receipt | null;
  /** Whether the run has ended and exactly what its receipt says has come; `null` until it has ended. */
  readonly receiptAgrees: boolean | null;
  [Symbol.asyncIterator](): AsyncIterator<Envelope>;
  /** The terminal envelope, when it has come; rejects as the iterator throws. */
  ended(): Promise<TerminalEnvelope>;
  /** Ask the server to end the run; its `agent_cancelled` comes as an event. */
  cancel(): void;
  /** Answer an `input_required`. */
  provideInput(inputId: string, value: unknown): void;
  addEventListener<Name extends keyof RunEvents>(
    name: Name,
    listener: (event: RunEvents[Name]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    name: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export interface FollowOptions {
  /** Called with each envelope. Unlike a listener that is added later, it misses none. */
  onEvent?: (envelope: Envelope) => void;
}

export interface StartOptions extends FollowOptions {
  /** The server's first agent by default. */
  agent?: string;
  threadId?: string;
  /** Unique per user: the same again gives the same run. */
  requestId?: string;
  /** The W3C trace context of what asks; the run's trace links to it. */
  traceparent?: string;
}

interface ClientEvents {
  state: CustomEvent<StateChange>;
  ready: CustomEvent<Ready>;
  /** A run that was started elsewhere, as in another tab of the same user. */
  run: CustomEvent<Run>;
  rejected: CustomEvent<Rejected>;
}

/** One user's connection. */
export class Tracewire extends EventTarget {
  /**
   * @param url The server's socket, as in `wss://agents.example.com/ws`; relative to the page, `http` read as `ws`.
   * @param options.token The user's token, or a function that gives a fresh one: it is asked for every connection, and
   *   before the token that it gave expires.
   */
  constructor(url: string | URL, options: { token: string | (() => string | Promise<string>) });
  readonly state: State;
  /** The newest `ready` frame. */
  readonly ready: Ready | null;
  /**
   * Connect, and stay connected. Lost connections are made anew with jittered backoff, and their runs resumed; a close
   * code that says not to, as for an expired token, ends in the state `closed` instead. It may be called again then.
   *
   * @throws TracewireError The server does not let this client in; `closeCode` says why.
   */
  connect(): Promise<Ready>;
  /** Go offline until `connect` is called. The runs are kept, and resumed then. */
  disconnect(): void;
  /** Close for good: what is still open fails. */
  close(): void;
  /**
   * Start a run. It waits for a connection where there is none.
   *
   * @returns The run, when the server has accepted it, durably.
   * @throws TracewireError The server refused it, or the client was closed.
   */
  start(input: unknown, options?: StartOptions): Promise<Run>;
  /** Follow a run that was started before, as `ready.runs` lists it, from its first event. */
  resume(runId: string, options?: FollowOptions & { requestId?: string; agent?: string }): Run;
  addEventListener<Name extends keyof ClientEvents>(
    name: Name,
    listener: (event: ClientEvents[Name]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    name: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}
