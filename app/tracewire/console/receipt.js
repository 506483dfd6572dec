// The receipt: what the server says that it sent, held against what came. Green where the two agree.

import { byId } from "/console/element.js";

/** Counts of the events by type; joined deltas are counted singly. */
export function countsOf(envelopes) {
  const counts = {};
  for (const { type, seq, first_seq: first = seq } of envelopes) counts[type] = (counts[type] ?? 0) + seq - first + 1;
  return counts;
}

/** Show the receipt of a run of which these envelopes came; `where` says from where they were read. */
export function showReceipt(envelopes, where) {
  const box = byId("receipt");
  const counts = countsOf(envelopes);
  const here = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const receipt = envelopes.at(-1)?.data.receipt ?? null;
  box.hidden = false;
  if (!receipt) {
    box.dataset.verdict = "open";
    byId("receipt-title").textContent = "No receipt yet";
    byId("receipt-detail").textContent = `${events(here)} ${where} so far; the last one brings the receipt.`;
    return null;
  }
  const types = [...new Set([...Object.keys(receipt.counts), ...Object.keys(counts)])];
  const wrong = types.filter((type) => receipt.counts[type] !== counts[type]);
  const agrees = !wrong.length && receipt.last_seq === here;
  box.dataset.verdict = agrees ? "agrees" : "differs";
  byId("receipt-title").textContent = agrees ? "The receipt agrees" : "The receipt differs";
  byId("receipt-detail").textContent = agrees
    ? `The server sent ${events(receipt.last_seq)}; ${here} ${where}: ${types.map((type) => `${counts[type]} ${type}`).join(", ")}.`
    : `The server sent ${events(receipt.last_seq)}; ${here} ${where}: ${wrong
        .map((type) => `${type} ${counts[type] ?? 0} of ${receipt.counts[type] ?? 0}`)
        .join(", ")}.`;
  return agrees;
}

export function hideReceipt() {
  byId("receipt").hidden = true;
}

function events(count) {
  return count === 1 ? "1 event" : `${count} events`;
}
