"""What a pool library is to poolctl: its defaults, its settings and its own names for them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from poolctl.pool.settings import PoolRules, PoolSettings


class Problem(NamedTuple):
    """A combination of settings that the library refuses, or that cannot work."""

    key: str
    rule: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Library:
    """A pool library: what its settings default to, which ones it has, and how it behaves."""

    name: str
    library: str
    """Name and version whose source the preset follows."""
    defaults: PoolSettings
    native: dict[str, str]
    """The settings that the library has, with its own names for them. Any other is refused, never ignored."""
    rules: PoolRules = field(default_factory=PoolRules)
    exhausted: str = "context deadline exceeded"
    """What the library says when an acquire gives up."""
    error: str = "PoolTimeout"
    """What it raises then."""
    zero_is_off: frozenset[str] = frozenset()
    """The times for which this library takes 0 for "no limit". Elsewhere 0 is a limit, and a short one."""
    is_unlimited_at_0: bool = False
    """Whether max_open may be 0."""
    size_follows: str = ""
    """"min_idle": without max_open the pool holds exactly min_idle; "max_open": without min_idle it holds max_open."""
    least: dict[str, float] = field(default_factory=dict)
    """Times below which the library silently takes another value; such a value is refused here."""

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self.native)

    def complete(self, given: Mapping[str, Any]) -> PoolSettings:
        """Return the ``given`` settings, with this library's defaults for the rest, which depend on them."""
        settings = asdict(self.defaults) | dict(given)
        for name in self.zero_is_off:
            settings[name] = settings[name] or None
        if self.size_follows == "min_idle" and "max_open" not in given:
            settings["max_open"] = settings["min_idle"]
        if self.size_follows == "max_open" and "min_idle" not in given:
            settings["min_idle"] = settings["max_open"]
        if bound := settings["max_open"]:
            if "max_idle" not in given:
                settings["max_idle"] = min(settings["max_idle"], bound) if "max_idle" in self.keys else bound
            if "min_idle" not in given:
                settings["min_idle"] = min(settings["min_idle"], bound)
        return PoolSettings(**settings)

    def describe_exhaustion(self, settings: PoolSettings) -> str:
        """Return what the library says when an acquire gives up in a pool with these settings."""
        return self.exhausted.format(
            acquire_timeout=settings.acquire_timeout or 0.0,
            max_idle=settings.max_idle,
            max_overflow=settings.max_open - settings.max_idle,
        )

    def problems(self, settings: PoolSettings) -> Iterator[Problem]:
        """Yield what this library would not accept in ``settings``, worst first."""
        if settings.max_open == 0 and not self.is_unlimited_at_0:
            yield Problem(
                "max_open", f"{self.name} has no unlimited pool", f"its {self.native['max_open']} is 1 or more"
            )
        if settings.max_open and settings.min_idle > settings.max_open:
            yield Problem("min_idle", f"must not be above max_open ({settings.max_open})")
        # Go lowers max_idle to max_open by itself; for the others it is a floor or a part of max_open.
        if self.name in ("psycopg2", "sqlalchemy") and settings.max_open and settings.max_idle > settings.max_open:
            yield Problem("max_idle", f"must not be above max_open ({settings.max_open})")
        if self.name == "sqlalchemy" and settings.max_open and settings.max_idle == 0:
            yield Problem("max_idle", "pool_size 0 makes SQLAlchemy's pool unlimited", "give max_idle 1 or more")
        if self.name in ("psycopg_pool", "django") and settings.max_idle_time == 0:
            yield Problem("max_idle_time", "its scheduler would never rest", "off switches the limit off")
        for key, least in self.least.items():
            value = getattr(settings, key)
            if value is not None and value < least:
                yield Problem(key, f"{self.name} replaces a value below {least:g} s by another one")
