// Asks the analyst one question over Tracewire's socket, as wire.md describes it, and prints what came as one JSON line.
//
// node client.mjs URL TOKEN subprotocol|frame QUESTION
//
// `subprotocol` brings the token as an offered subprotocol, `frame` in an `authenticate` frame.

import WebSocket from "ws";

const [url, token, way, question] = process.argv.slice(2);
const ACK_EVERY = 4;
const TERMINAL = new Set(["agent_completed", "agent_error", "agent_cancelled"]);

const offered = way === "subprotocol" ? ["tracewire.v1", `bearer.${token}`] : ["tracewire.v1"];
const socket = new WebSocket(url, offered, { perMessageDeflate: false });

const report = { subprotocol: null, ready: null, accepted: null, order: [], events: [], acks: [], others: [], close: null };
let lastSeq = 0;
let ackedSeq = 0;

const send = (frame) => socket.send(JSON.stringify(frame));

function ack(runId) {
  if (ackedSeq === lastSeq) return;
  ackedSeq = lastSeq;
  const frame = { type: "ack", run_id: runId, seq: lastSeq, count: report.events.length };
  report.acks.push(frame);
  send(frame);
}

function take(frame) {
  report.order.push(frame.type);
  switch (frame.type) {
    case "ready":
      report.ready = frame;
      send({ type: "start_run", request_id: "a question from Node", agent: "analyst", input: question });
      return;
    case "run_accepted":
      report.accepted = frame;
      return;
    case "ping":
      send({ type: "pong", id: frame.id });
      return;
  }
  if (frame.run_id === undefined || frame.seq === undefined) {
    report.others.push(frame);
    return;
  }
  report.events.push(frame);
  if (frame.seq === lastSeq + 1) lastSeq = frame.seq;
  const ended = TERMINAL.has(frame.type);
  if (ended || lastSeq - ackedSeq >= ACK_EVERY) ack(frame.run_id);
  if (ended) socket.close(1000);
}

socket.on("open", () => {
  report.subprotocol = socket.protocol;
  if (way === "frame") send({ type: "authenticate", token });
});
socket.on("message", (data, isBinary) => {
  if (isBinary) throw new Error("a binary frame came");
  take(JSON.parse(data.toString("utf8")));
});
socket.on("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
socket.on("close", (code, reason) => {
  report.close = { code, reason: reason.toString() };
  console.log(JSON.stringify(report));
});
