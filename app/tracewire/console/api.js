// The HTTP side of the server: runs, ledgers, recordings, and the sign-in of development mode.

/** A refusal: its message is the problem document's, for people. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** What the page needs to know before anyone has signed in. */
export async function about() {
  return answerOf(await fetch("/console/about"));
}

/** A fresh token for a user: development mode alone offers it. */
export async function signInAs(user) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch("/console/sign-in", { method: "POST", headers, body: JSON.stringify({ user }) });
  return (await answerOf(answer)).token;
}

/** Requests of one signed-in user. `token` gives a token that holds. */
export class Api {
  constructor(token) {
    this.token = token;
  }

  async request(path, options = {}) {
    const headers = { ...options.headers, Authorization: `Bearer ${await this.token()}` };
    return answerOf(await fetch(path, { ...options, headers }));
  }

  runs(before) {
    return this.request(`/runs?limit=20${before ? `&before=${encodeURIComponent(before)}` : ""}`);
  }

  ledger(runId) {
    return this.request(`/runs/${encodeURIComponent(runId)}/ledger`);
  }

  cancel(runId) {
    return this.request(`/runs/${encodeURIComponent(runId)}`, { method: "DELETE" });
  }

  /** Every event of the run that the log holds. */
  async events(runId) {
    const found = [];
    for (;;) {
      const path = `/runs/${encodeURIComponent(runId)}/events?after=${found.at(-1)?.seq ?? 0}`;
      const { events, last_seq: lastSeq } = await this.request(path);
      found.push(...events);
      if (!events.length || found.at(-1).seq >= lastSeq) return found;
    }
  }

  /** Upload a recording; gives its id. */
  async upload(file) {
    const path = `/recordings?name=${encodeURIComponent(file.name)}`;
    const headers = { "Content-Type": "application/octet-stream" };
    return (await this.request(path, { method: "POST", headers, body: file })).recording_id;
  }
}

async function answerOf(response) {
  const text = await response.text();
  let body = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    // Something between here and the server answered in its own words.
  }
  if (!response.ok) throw new ApiError(response.status, body?.detail ?? `the server answered ${response.status}`);
  return body;
}
