// The frames of tracewire.v1. Written by `make types` from the server's code: do not edit.

/** Promises that events 1 to `seq` of the run were processed, not merely received. */
export interface Ack {
  type: "ack";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts a run's events from 1, without gaps. */
  seq: number;
  /** How many distinct events were processed; must equal `seq`. */
  count?: number | null;
}

/** The run was cancelled. Terminal. */
export interface AgentCancelled {
  reason: string;
  receipt: Receipt;
  truncated?: Record<string, number>;
}

/** The run was cancelled. Terminal. */
export interface AgentCancelledEnvelope {
  type: "agent_cancelled";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: AgentCancelled;
}

/** The run reached its end, with the answer. Terminal. */
export interface AgentCompleted {
  output: unknown;
  duration_ms: number;
  receipt: Receipt;
  truncated?: Record<string, number>;
}

/** The run reached its end, with the answer. Terminal. */
export interface AgentCompletedEnvelope {
  type: "agent_completed";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: AgentCompleted;
}

/** A piece of streamed text. */
export interface AgentDelta {
  text: string;
  truncated?: Record<string, number>;
}

/** A piece of streamed text. */
export interface AgentDeltaEnvelope {
  type: "agent_delta";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: AgentDelta;
  /**
   * Where contiguous deltas were joined into one, for who reads slowly: the seq of the first. Each counts in
   * acks and receipt. Who has had a part of them resumes, and gets the rest singly.
   */
  first_seq?: number;
}

/** The run failed; `retryable` says whether the same request can succeed later. Terminal. */
export interface AgentError {
  code: RunErrorCode;
  message: string;
  retryable: boolean;
  receipt: Receipt;
  truncated?: Record<string, number>;
}

/** The run failed; `retryable` says whether the same request can succeed later. Terminal. */
export interface AgentErrorEnvelope {
  type: "agent_error";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: AgentError;
}

/** The agent has begun; the first event of every run that does. */
export interface AgentStarted {
  message: string;
  truncated?: Record<string, number>;
}

/** The agent has begun; the first event of every run that does. */
export interface AgentStartedEnvelope {
  type: "agent_started";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: AgentStarted;
}

/** What the agent thinks; `step` counts the thoughts of a run from 1. */
export interface AgentThinking {
  text: string;
  step: number;
  truncated?: Record<string, number>;
}

/** What the agent thinks; `step` counts the thoughts of a run from 1. */
export interface AgentThinkingEnvelope {
  type: "agent_thinking";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: AgentThinking;
}

/** Signs in within the first 10 seconds, or renews on an open socket; answered by `authenticated`. */
export interface Authenticate {
  type: "authenticate";
  /** A token, never repeated in an answer or a log. */
  token: string;
}

/** The token of an `authenticate` holds. */
export interface Authenticated {
  type: "authenticated";
  /** Until when, in Unix seconds. */
  expires_at: number;
}

/** Asks an open run to end with `agent_cancelled`. */
export interface CancelRun {
  type: "cancel_run";
  /** The run's id, a UUIDv7. */
  run_id: string;
}

/** Any frame that a client sends. */
export type ClientFrame = Authenticate | StartRunFrame | CancelRun | ProvideInput | Ack | Resume | Pong;

/** The server is about to stop, and will close with 4000: come back then. */
export interface Draining {
  type: "draining";
  /** In seconds. */
  retry_after_seconds: number;
}

/** Any event, with its run, its place in it, its time and its trace context. */
export type Envelope =
  | AgentStartedEnvelope
  | AgentThinkingEnvelope
  | ToolExecutingEnvelope
  | ToolCompletedEnvelope
  | AgentDeltaEnvelope
  | InputRequiredEnvelope
  | AgentCompletedEnvelope
  | AgentErrorEnvelope
  | AgentCancelledEnvelope;

/** The agent waits for `provide_input`; `kind` is `approval` or `question`, `schema` a text where it was cut. */
export interface InputRequired {
  input_id: string;
  kind: string;
  prompt: string;
  schema?: Record<string, unknown> | string;
  truncated?: Record<string, number>;
}

/** The agent waits for `provide_input`; `kind` is `approval` or `question`, `schema` a text where it was cut. */
export interface InputRequiredEnvelope {
  type: "input_required";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: InputRequired;
}

/** A heartbeat, to be answered by `pong` with the same id. */
export interface Ping {
  type: "ping";
  id: number;
}

/** Answers a `ping`. */
export interface Pong {
  type: "pong";
  /** That of the `ping`. */
  id?: unknown;
}

/** Answers an `input_required`. */
export interface ProvideInput {
  type: "provide_input";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** That of the `input_required`. */
  input_id: string;
  /** The answer: any JSON value. */
  value: unknown;
}

/** The one sign that the whole chain behind the socket is up. */
export interface Ready {
  type: "ready";
  connection_id: string;
  user_id: string;
  /** Time between the server's pings. */
  heartbeat_seconds: number;
  /** `frame_bytes`, `event_bytes`, `runs_per_user`, `sockets_per_user`. */
  limits: Record<string, number>;
  /** The agents that can be asked, the default first. */
  agents: string[];
  /** The user's open runs, and ended ones not acked to their end: the newest 100. */
  runs: RunListing[];
  /** Whether there are more such runs; `GET /runs` lists all. */
  runs_more: boolean;
}

/** What a terminal event says was sent, itself included, so that a client can check that it has everything. */
export interface Receipt {
  last_seq: number;
  counts: Record<string, number>;
}

/** Why a frame or a request was refused; also the `code` of a problem document. */
export type RejectCode =
  | "ack_ahead"
  | "draining"
  | "forbidden"
  | "invalid_input"
  | "log_unavailable"
  | "malformed"
  | "not_ready"
  | "rate_limited"
  | "request_id_reused"
  | "run_ended"
  | "too_many_runs"
  | "unauthenticated"
  | "unknown_agent"
  | "unknown_frame"
  | "unknown_run";

/** A frame was refused. `message` says what was wrong and what to do. */
export interface Rejected {
  type: "rejected";
  /** The type of the frame, where it had one. */
  frame: string | null;
  code: RejectCode;
  message: string;
  /**
   * The client's own name for its request, 1 to 128 characters, unique for the user as long as the run is
   * kept.
   */
  request_id?: string;
  /** The run's id, a UUIDv7. */
  run_id?: string;
  /** In seconds. */
  retry_after_seconds?: number;
}

/**
 * Follows these runs from after the seqs that it names; counts as their acks. Answered by a `resumed` for
 * each.
 */
export interface Resume {
  type: "resume";
  /** The last seq that was processed, by run id; 0 for none. */
  runs: Record<string, number>;
}

/**
 * Answers one run of a `resume`. Recovered: every event from `from_seq` on follows, then live. Not recovered:
 * nothing follows, and `from_seq` says where the log now begins.
 */
export interface Resumed {
  type: "resumed";
  /** The run's id, a UUIDv7. */
  run_id: string;
  recovered: boolean;
  /** As in `ready`; `null` where there is no such run. */
  state: string | null;
  /** Counts a run's events from 1, without gaps. */
  from_seq: number;
  /** Counts a run's events from 1, without gaps. */
  last_seq: number;
  /** Why not: `expired` or `unknown_run`. */
  reason?: string;
}

/** The run's record is durable, and none of its events was sent on this socket before. */
export interface RunAccepted {
  type: "run_accepted";
  /**
   * The client's own name for its request, 1 to 128 characters, unique for the user as long as the run is
   * kept.
   */
  request_id: string;
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** The conversation that the run belongs to. */
  thread_id: string;
}

/** Why a run ended in `agent_error`. */
export type RunErrorCode =
  | "agent_exception"
  | "contract_broken"
  | "log_unavailable"
  | "not_serializable"
  | "timeout"
  | "worker_lost";

/** One run in `ready`. It is followed only once a `resume` names it. */
export interface RunListing {
  /** The run's id, a UUIDv7. */
  run_id: string;
  /**
   * The client's own name for its request, 1 to 128 characters, unique for the user as long as the run is
   * kept.
   */
  request_id: string;
  agent: string;
  /** `running`, `awaiting_input`, `completed`, `failed` or `cancelled`. */
  state: string;
  /** Counts a run's events from 1, without gaps. */
  last_seq: number;
  /** Counts a run's events from 1, without gaps. */
  acked_seq: number;
}

/** Any frame that the server sends and that is no event. */
export type ServerFrame =
  | Ready
  | RunAccepted
  | Rejected
  | Resumed
  | Ping
  | Authenticated
  | Draining
  | Unavailable;

/** Starts a run; answered by `run_accepted`. The same `request_id` again is answered with the same run. */
export interface StartRunFrame {
  type: "start_run";
  /**
   * The client's own name for its request, 1 to 128 characters, unique for the user as long as the run is
   * kept.
   */
  request_id: string;
  /** What the agent is asked: any JSON value. */
  input: unknown;
  /** Its name; without one, the server's first. */
  agent?: string | null;
  /** The conversation to go on with; without one, a new one. */
  thread_id?: string | null;
  /** W3C trace context, to which the run's trace links. */
  traceparent?: string | null;
}

/** The last event of a run. Every run has exactly one. */
export type TerminalEnvelope = AgentCompletedEnvelope | AgentErrorEnvelope | AgentCancelledEnvelope;

/** A tool call has ended, however it did; `result` is `null` where it gave none. */
export interface ToolCompleted {
  tool_call_id: string;
  tool_name: string;
  status: ToolStatus;
  result: unknown;
  duration_ms: number;
  error?: string;
  truncated?: Record<string, number>;
}

/** A tool call has ended, however it did; `result` is `null` where it gave none. */
export interface ToolCompletedEnvelope {
  type: "tool_completed";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: ToolCompleted;
}

/** A tool call has begun; `arguments` have their secret-looking values redacted. */
export interface ToolExecuting {
  tool_call_id: string;
  tool_name: string;
  arguments: unknown;
  truncated?: Record<string, number>;
}

/** A tool call has begun; `arguments` have their secret-looking values redacted. */
export interface ToolExecutingEnvelope {
  type: "tool_executing";
  /** The run's id, a UUIDv7. */
  run_id: string;
  /** Counts the run's events from 1, without gaps. */
  seq: number;
  /** When it happened: RFC 3339, UTC. */
  time: string;
  /** The agent's name. */
  agent: string;
  /** W3C trace context of the event. */
  traceparent: string;
  data: ToolExecuting;
}

/** How a tool call ended: the `status` of `tool_completed`. */
export type ToolStatus = "cancelled" | "error" | "ok" | "timeout";

/** The server cannot go on now, and will close with 4004: come back and resume. */
export interface Unavailable {
  type: "unavailable";
  code: string;
}

/** The type of an event. */
export type EventType = Envelope["type"];
