"""The book of the turns in PostgreSQL: one function, called once for all who wait.

It is the script of the Redis limiter in the server's own language, under the same rules:
a turn counts until a window after its answer, or after its lease if none comes; while
others wait, no process gets further ahead of them than a share of the window.

How many turns count is kept, not counted, and those that have ended are not walked over
again: a large account has tens of thousands in a window, and all calls stand in one line.

The tables are unlogged, and a call does not wait for the disk.  A crash of the server
empties them; then every process tells it anew which turns still count.

Of each process the number of its last call is kept.  A call that comes twice gets what it
got; one that comes behind a later one does nothing, because who made it has given it up.
"""

from __future__ import annotations

import hashlib

__all__ = ["CALL", "NAME", "SCHEMA", "TABLES"]

SCHEMA = "kie_limits"

_BODY = """
DECLARE
    now BIGINT;
    is_paused BIGINT;
    longest BIGINT;
    last_left BIGINT;
    last_call BIGINT;
    counted_now INTEGER;
    swept_to BIGINT;
    changed INTEGER;
    free INTEGER;
    others INTEGER;
    least DOUBLE PRECISION;
    mine DOUBLE PRECISION;
BEGIN
    INSERT INTO kie_limits.accounts (account) VALUES (who) ON CONFLICT DO NOTHING;
    SELECT a.paused, a.pause, a.last_turn, a.counted, a.swept
        INTO is_paused, longest, last_left, counted_now, swept_to
        FROM kie_limits.accounts AS a WHERE a.account = who FOR UPDATE;
    now := (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT;
    granted := 0;
    wait := 0;
    SELECT p.call INTO last_call FROM kie_limits.processes AS p
        WHERE p.account = who AND p.process = me;
    IF call_number < last_call THEN
        RETURN;
    END IF;

    -- a clock that was set back leaves times that nobody can have meant
    is_paused := least(is_paused, now + longest);
    last_left := least(last_left, now);
    swept_to := least(swept_to, now);
    UPDATE kie_limits.turns AS t SET until = now + span + lease
        WHERE t.account = who AND t.until > now + span + lease;

    -- what has happened: answers, turns given back, all of a process that could not ask us
    UPDATE kie_limits.turns AS t SET until = now + span
        WHERE t.account = who AND t.turn = ANY (finished);
    DELETE FROM kie_limits.turns AS t WHERE t.account = who AND t.turn = ANY (returned);
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed > 0 THEN
        counted_now := counted_now - changed;
        UPDATE kie_limits.processes AS p SET served = p.served - changed
            WHERE p.account = who AND p.process = me;
    END IF;
    WITH put AS (
        INSERT INTO kie_limits.turns (account, turn, until)
            SELECT who, r.turn, now + r.rest FROM unnest(restored, restored_left) AS r (turn, rest)
            ON CONFLICT (account, turn) DO UPDATE SET until = excluded.until
            RETURNING xmax = 0 AS is_new)
    SELECT counted_now + count(*) INTO counted_now FROM put WHERE is_new;
    DELETE FROM kie_limits.turns AS t
        WHERE t.account = who AND t.until >= swept_to AND t.until <= now;
    GET DIAGNOSTICS changed = ROW_COUNT;
    counted_now := counted_now - changed;
    swept_to := now;
    DELETE FROM kie_limits.processes AS p WHERE p.account = who AND p.seen < now - 60000000;
    IF pause > 0 AND now + pause > is_paused THEN
        is_paused := now + pause;
        longest := pause;
    END IF;

    -- the same call once more: the first answer was lost on its way
    IF call_number = last_call THEN
        SELECT count(*) INTO granted FROM kie_limits.turns AS t
            JOIN unnest(numbers) AS n (number) ON t.turn = me || ':' || n.number
            WHERE t.account = who;
        want := CASE WHEN granted > 0 THEN 0 ELSE want END;
        counted_now := counted_now - granted;  -- they are counted, and are added below
    END IF;

    -- how many may go
    IF want > 0 THEN
        free := most - counted_now;
        IF is_paused > now THEN
            wait := is_paused - now;
        ELSIF free <= 0 THEN
            SELECT least(t.until - now, span) INTO wait FROM kie_limits.turns AS t
                WHERE t.account = who AND t.until > swept_to ORDER BY t.until LIMIT 1;
            wait := coalesce(wait, 0);
        ELSE
            -- no more than an eighth at once: others who want some may be on their way
            granted := least(want, free, greatest(1, ceil(most / 8.0)::INTEGER));
            -- who refused us counts something that we do not: after a pause one at a time
            IF now < is_paused + span THEN
                IF now < last_left + span / most THEN
                    granted := 0;
                    wait := last_left + span / most - now;
                ELSE
                    granted := 1;
                END IF;
            END IF;
            SELECT count(*), min(p.served) INTO others, least FROM kie_limits.processes AS p
                WHERE p.account = who AND p.process <> me AND p.asks > now
                    AND p.asks <= now + greatest(span, is_paused - now) + 200000;
            IF others > 0 AND granted > 0 THEN
                SELECT p.served INTO mine FROM kie_limits.processes AS p
                    WHERE p.account = who AND p.process = me;
                mine := coalesce(mine, least);
                IF mine < least - most THEN  -- it did not wait: it has nothing to catch up
                    mine := least;
                END IF;
                INSERT INTO kie_limits.processes (account, process, served) VALUES (who, me, mine)
                    ON CONFLICT (account, process) DO UPDATE SET served = excluded.served;
                granted := greatest(0, least(granted,
                    (least + greatest(1, most / (others + 1)) - mine)::INTEGER));
                IF granted = 0 AND wait = 0 THEN
                    wait := 5000;
                END IF;
            END IF;
        END IF;
        INSERT INTO kie_limits.turns (account, turn, until)
            SELECT who, me || ':' || numbers[n], now + span + lease
            FROM generate_series(1, granted) AS n;
        INSERT INTO kie_limits.processes (account, process, served, asks, seen, call)
            VALUES (who, me, granted, CASE WHEN granted < want THEN now + wait + 100000 ELSE 0 END,
                now, call_number)
            ON CONFLICT (account, process) DO UPDATE
                SET served = kie_limits.processes.served + granted,
                    asks = excluded.asks, seen = excluded.seen, call = excluded.call;
    ELSE
        UPDATE kie_limits.processes AS p SET call = call_number, seen = now
            WHERE p.account = who AND p.process = me;
    END IF;
    UPDATE kie_limits.accounts AS a
        SET paused = is_paused, pause = longest, counted = counted_now + granted, swept = swept_to,
            last_turn = CASE WHEN granted > 0 THEN now ELSE last_left END
        WHERE a.account = who;
END
"""

_TABLES = """
SET LOCAL search_path TO kie_limits;
CREATE SCHEMA IF NOT EXISTS kie_limits;
CREATE UNLOGGED TABLE IF NOT EXISTS kie_limits.accounts (
    account TEXT PRIMARY KEY,
    paused BIGINT NOT NULL DEFAULT 0,
    pause BIGINT NOT NULL DEFAULT 0,
    last_turn BIGINT NOT NULL DEFAULT 0,
    counted INTEGER NOT NULL DEFAULT 0,
    swept BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE IF NOT EXISTS kie_limits.turns (
    account TEXT NOT NULL,
    turn TEXT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (account, turn)
);
CREATE INDEX IF NOT EXISTS turns_by_until ON kie_limits.turns (account, until);
CREATE UNLOGGED TABLE IF NOT EXISTS kie_limits.processes (
    account TEXT NOT NULL,
    process TEXT NOT NULL,
    served DOUBLE PRECISION NOT NULL DEFAULT 0,
    asks BIGINT NOT NULL DEFAULT 0,
    seen BIGINT NOT NULL DEFAULT 0,
    call BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (account, process)
) WITH (fillfactor = 50);
ALTER TABLE kie_limits.accounts ADD COLUMN IF NOT EXISTS pause BIGINT NOT NULL DEFAULT 0;
ALTER TABLE kie_limits.processes ADD COLUMN IF NOT EXISTS call BIGINT NOT NULL DEFAULT 0;
"""

# Another version of the package has another body, and so another name: both may be in use.
NAME = f"kie_limits.book_{hashlib.sha256((_TABLES + _BODY).encode()).hexdigest()[:12]}"

TABLES = f"""{_TABLES}CREATE OR REPLACE FUNCTION {NAME} (
    who TEXT, most INTEGER, span BIGINT, lease BIGINT, me TEXT, call_number BIGINT,
    want INTEGER, pause BIGINT,
    finished TEXT[], returned TEXT[], restored TEXT[], restored_left BIGINT[], numbers BIGINT[],
    OUT granted INTEGER, OUT wait BIGINT
) LANGUAGE plpgsql AS $body${_BODY}$body$;
"""

CALL = (
    f"SELECT granted, wait FROM {NAME} (%s::text, %s::integer, %s::bigint, %s::bigint, "  # noqa: S608
    "%s::text, %s::bigint, %s::integer, %s::bigint, "
    "%s::text[], %s::text[], %s::text[], %s::bigint[], "
    "%s::bigint[])"
)
