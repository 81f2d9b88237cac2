"""The messages of PostgreSQL's log that matter here, in the languages that PostgreSQL is translated to.

Decides how a translated message is said in English, so that one set of rules reads all of them; figures and names are
found by their place. Texts are those of PostgreSQL 15's translations (src/backend/po). A refusal is known by its
SQLSTATE before by its text, where the log has one.
"""

# ruff: noqa: RUF001 - the alphabets of other languages have letters that look like Latin ones
import re

LEVELS = {
    "FATAL": ("FATALE", "FATALER FEHLER", "FATALT", "ВАЖНО", "ФАТАЛЬНО", "致命错误", "致命的エラー", "치명적오류"),
    "PANIC": ("PANIK", "ПАНИКА"),
    "ERROR": ("FEHLER", "ERREUR", "ERRORE", "エラー", "오류", "ОШИБКА", "FEL", "ПОМИЛКА", "错误"),
    "LOG": ("REGISTRO", "ログ", "로그", "СООБЩЕНИЕ", "LOGG", "ЗАПИСУВАННЯ", "日志"),
    "WARNING": ("WARNUNG", "ATTENTION", "ATTENZIONE", "경고", "ПРЕДУПРЕЖДЕНИЕ", "VARNING", "ПОПЕРЕДЖЕННЯ", "警告"),
    "NOTICE": ("HINWEIS", "NOTIFICA", "알림", "ЗАМЕЧАНИЕ", "NOTIS", "ПОВІДОМЛЕННЯ", "注意"),
    "DETAIL": (
        *("DETALLE", "DÉTAIL", "DETTAGLI", "詳細", "상세정보", "ПОДРОБНОСТИ", "DETALJ", "ВІДОМОСТІ", "详细信息"),
        "DETALHE",
    ),
    "STATEMENT": (
        *("ANWEISUNG", "SENTENCIA", "INSTRUCTION", "ISTRUZIONE", "文", "명령 구문", "ОПЕРАТОР", "SATS", "ІНСТРУКЦІЯ"),
        *("语句", "COMANDO"),
    ),
    "HINT": ("TIPP", "ASTUCE", "SUGGERIMENTO", "ヒント", "힌트", "ПОДСКАЗКА", "TIPS", "УКАЗІВКА", "提示"),
    "CONTEXT": ("ZUSAMMENHANG", "CONTEXTO", "CONTEXTE", "CONTESTO", "文脈", "내용", "КОНТЕКСТ", "KONTEXT", "上下文"),
    "QUERY": ("ANFRAGE", "CONSULTA", "REQUÊTE", "問い合わせ", "쿼리", "ЗАПРОС", "FRÅGA", "ЗАПИТ", "查询"),
}
"""By their English name. English itself and names that are the same are left out."""
ENGLISH_LEVEL = {foreign: level for level, names in LEVELS.items() for foreign in names}

_AUTHORIZED = (
    *("Verbindung autorisiert: ", "conexión autorizada: ", "connexion autorisée : ", "connessione autorizzata: "),
    *("接続の認証完了: ", "연결 인증: ", "подключение авторизовано: ", "anslutning auktoriserad: "),
    "підключення авторизовано: ",
)
_DISCONNECTED = (
    *("Verbindungsende: ", "desconexión: ", "déconnexion : ", "disconnessione: ", "接続を切断: ", "연결종료: "),
    *("отключение: ", "nedkoppling: ", "відключення: ", "断开连接: "),
)
_DURATION = (
    *("Dauer: ", "duración: ", "durée : ", "durata: ", "期間: ", "실행시간: ", "продолжительность: ", "varaktighet: "),
    *("тривалість: ", "执行时间: "),
)
_READY = (
    *(
        "Datenbanksystem ist bereit, um",
        "el sistema de bases de datos está listo",
        "le système de bases de données est",
    ),
    *(
        "il database è pronto",
        "データベースシステムの接続受け付け準備",
        "이제 데이터베이스 서버로",
        "система БД готова",
    ),
    *("databassystemet är redo", "система бази даних готова", "数据库系统准备接受连接"),
)
_WAITS = (
    *("wartet immer noch", "aún espera", "toujours en attente", "ancora un attesa", "待機しています", "여전히"),
    *("продолжает ожидать", "väntar fortfarande", "все ще чекає", "仍然等待"),
)
_REFUSED = {
    "sorry, too many clients already": (
        *("tut mir leid, schon zu viele", "ya tenemos demasiados clientes", "trop de clients sont déjà connectés"),
        *("spiacente, troppi client", "現在クライアント数が多すぎます", "최대 동시 접속자 수를 초과"),
        *("уже слишком много клиентов", "ledsen, för många klienter", "вже забагато клієнтів", "已经有太多的客户"),
    ),
    "remaining connection slots are reserved for superusers": (
        *("verbleibenden Verbindungen sind", "restantes están reservadas a superusuarios"),
        *("connexions restants sont réservés", "rimanenti slot di connessione sono riservati"),
        *("残りの接続スロットは", "남은 연결 슬롯은", "оставшиеся слоты подключений", "resterande anslutningsslottar"),
        *("слоти підключень, які залишились", "已保留的连接位置"),
    ),
    "too many connections for role": (
        *("zu viele Verbindungen von Rolle", "demasiadas conexiones para el rol", "trop de connexions pour le rôle"),
        *("troppe connessioni per il ruolo", "からの接続が多すぎます", "롤의 최대 동시 접속수를 초과"),
        *("слишком много подключений для роли", "för många uppkopplingar för roll"),
        *("занадто багато підключень для ролі", "发起的连接太多了"),
    ),
    "too many connections for database": (
        *("zu viele Verbindungen für Datenbank", "demasiadas conexiones para la base de datos"),
        *("trop de connexions pour la base", "troppe connessioni al database", "への接続が多すぎます"),
        *("데이터베이스 최대 접속수를 초과", "слишком много подключений к БД", "för många uppkopplingar till"),
        *("занадто багато підключень до бази", "的连接太多了"),
    ),
}
"""The role before the database: of two texts that begin alike, the longer is found first."""

_NAMED = re.compile(
    r"[:：] ?[^\s=]+ ?= ?(?P<user>\S+) (?:[^\s=]+=|base de données |database )(?P<database>\S+)"
    r"(?: [^\s=]+=(?P<application>.*?))?(?: SSL .*| GSS.*)?$"
)
_SESSION = re.compile(r"(?P<time>\d+:\d\d:\d\d\.\d+)(?P<who>.*)$", re.DOTALL)
_VALUE = re.compile(r"= ?(\S+)")
_MILLISECONDS = re.compile(r"(?P<number>[\d.]+) (?:ms|мс|ミリ秒)[ ,] *[^\s:：]+ ?[:：] (?P<statement>.*)$", re.DOTALL)
_LOCK = re.compile(r"((?:Access|Row|Share|Update|Exclusive)+Lock)")
_NUMBER = re.compile(r"(?<![\d.,])(\d+)(?![\d.,]*\d)")
_WAITED = re.compile(r"(\d+)[.,](\d{3}) ?(?:ms|мс|ミリ秒)")
_BEGINNINGS = (*_AUTHORIZED, *_DISCONNECTED, *_DURATION, *_READY)


def translate_message(text: str, level: str) -> str:
    """Return ``text`` in English where it is a known message in another language, else as it is.

    ``level``: the English name of its level. Only messages that a timeline wants are known.
    """
    if level == "FATAL":
        # From PostgreSQL 16 on these two stand in the text in every language.
        if "pg_use_reserved_connections" in text:
            return 'privileges of the "pg_use_reserved_connections" role'
        if "SUPERUSER" in text:
            return "remaining connection slots are reserved"
        return next((english for english, texts in _REFUSED.items() if any(each in text for each in texts)), text)
    if text.startswith(_BEGINNINGS):
        return _translate_log(text)
    # "process" begins with the number in some languages, and in others not.
    if "Lock" in text[:200] and (waited := _WAITED.search(text)) and any(words in text for words in _WAITS):
        pid, mode = _NUMBER.search(text), _LOCK.search(text)
        if pid is not None and mode is not None:
            after = f"{waited[1]}.{waited[2]}"
            return f"process {pid[1]} still waiting for {mode[1]} on an object after {after} ms"
    return text


def _translate_log(text: str) -> str:
    if text.startswith(_READY):
        return "database system is ready to accept connections"
    if text.startswith(_DURATION):
        match = _MILLISECONDS.search(text)
        return text if match is None else f"duration: {match['number']} ms  statement: {match['statement']}"
    if text.startswith(_DISCONNECTED):
        session = _SESSION.search(text)
        if session is None:
            return text
        # French has a line end before the names.
        user, database, host = (*_VALUE.findall(session["who"]), "", "", "")[:3]
        return f"disconnection: session time: {session['time']} user={user} database={database} host={host or '-'}"
    named = _NAMED.search(text)
    if named is None:
        return text
    application = f" application_name={named['application']}" if named["application"] else ""
    return f"connection authorized: user={named['user']} database={named['database']}{application}"
