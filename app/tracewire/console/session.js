// Who is signed in, for as long as the tab lives, also over a reload.

import { signInAs } from "/console/api.js";

const KEY = "tracewire.session";
const FRESH_MS = 60_000; // a token that expires sooner is not handed out again

/** Somebody who signed in: as a user of development mode, or with a token of their own. */
export class Session {
  #user;
  #given;
  #cached = null;

  constructor({ user = null, token = null }) {
    this.#user = user;
    this.#given = token;
  }

  /** The session that this tab had before it was reloaded, or null. */
  static remembered() {
    const stored = sessionStorage.getItem(KEY);
    return stored ? new Session(JSON.parse(stored)) : null;
  }

  remember() {
    sessionStorage.setItem(KEY, JSON.stringify({ user: this.#user, token: this.#given }));
  }

  forget() {
    sessionStorage.removeItem(KEY);
  }

  /** What the client asks for a token: a function where it can be renewed. */
  get tokenSource() {
    return this.#given ?? (() => this.#renewed());
  }

  /** A token that holds, for HTTP. */
  async token() {
    if (this.#given) return this.#given;
    if (!this.#cached || Date.now() > this.#cached.until) await this.#renewed();
    return this.#cached.token;
  }

  async #renewed() {
    const token = await signInAs(this.#user);
    const { exp } = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    this.#cached = { token, until: exp * 1000 - FRESH_MS };
    return token;
  }
}
