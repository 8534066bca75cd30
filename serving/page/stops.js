// A user's sessions and newest events -> the moments at which the slider stops: after each event, and now.

import { iso, micros } from "./times.js";

const MOST_SESSIONS = 48;

// Sessions that are drawn, each with those of its events that the service named.
export function shown(reply) {
  const events = reply.events.map((event) => ({ ...event, us: micros(event.occurred_at) }));
  return reply.sessions.slice(-MOST_SESSIONS).map((session) => {
    const [from, upto] = [micros(session.started_at), micros(session.ended_at)];
    const own = events.filter(({ us }) => us >= from && us <= upto);
    return { ...session, from, upto, events: own, isWhole: own.length === session.num_events };
  });
}

// at: null is now. x: where it stands, in sessions from the left; now has a place of its own after the last one.
export function stops(sessions) {
  const past = sessions.flatMap((session, place) =>
    session.isWhole
      ? session.events.map(({ us }, event) => ({
          at: iso(us + 1),
          x: place + (event + 1) / session.events.length,
          session: place,
          event: event + 1,
          num: session.num_events,
        }))
      : [{ at: iso(session.upto + 1), x: place + 1, session: place, event: session.num_events, num: session.num_events }],
  );
  return [...past, { at: null, x: sessions.length + 1, session: sessions.length, event: 0, num: 0 }];
}

// The newest session in which the theme turned and stayed, and that can be followed click by click; -1: there is none.
export function lastTurn(sessions) {
  const isFit = ({ hopped, isWhole, num_events, share }, place) => place > 0 && hopped && isWhole && num_events >= 3 && share >= 0.6;
  return sessions.findLastIndex(isFit);
}
